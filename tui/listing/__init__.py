"""All runs: read, filtered, ordered and compared."""
