"""Where a report goes: console, files, MLflow. Each sink takes reports and changes none."""
