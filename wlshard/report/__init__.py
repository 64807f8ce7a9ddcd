"""What people look at: pictures in the terminal, reports."""
