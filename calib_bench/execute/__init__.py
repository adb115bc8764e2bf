"""Where trials run: this process and its workers."""
