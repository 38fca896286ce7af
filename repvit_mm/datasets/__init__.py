"""From a folder of data to a config that trains on it, and the drawn data set."""
