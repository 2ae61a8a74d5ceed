"""The check before a job: whether every node of the cluster can do its part, told before an image is scored."""
