"""Query strategies and the geometry behind them."""
