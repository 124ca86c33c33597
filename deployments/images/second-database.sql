-- MLflow's database, beside Prefect's; run once, when the volume is empty.
CREATE DATABASE mlflow;
