"""The order of steps, and the command line that starts them."""
