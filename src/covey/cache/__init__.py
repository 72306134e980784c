"""What was read is kept in Valkey, and is never believed to be newer than it is."""
