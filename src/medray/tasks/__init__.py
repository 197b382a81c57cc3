"""What differs between tasks, one file each behind `medray.tasks.task.Task`. A new task is a new file."""
