"""What is installed, to the byte: locks, and what makes, installs and lists them. Nothing that serves needs it."""
