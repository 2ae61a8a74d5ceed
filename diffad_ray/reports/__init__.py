"""What people look at: results in the terminal, pictures, and pages."""
