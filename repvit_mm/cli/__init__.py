"""Parts of the command line that several tools share."""
