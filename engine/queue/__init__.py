"""The queue of one machine: runs that wait for a free card. There is no daemon: their supervisors agree by files."""
