"""What rows of any format share: fields by their dotted names, and the filter `where`."""
