"""What is read before anything is built: names of classes, placeholders, guards, and errors that a user can act on."""
