"""Tasks: one file each, with one constant `TASK`. The file's name is the task's name on the command line."""
