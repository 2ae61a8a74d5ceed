"""The check before a job: tests on every node of the cluster whether the job can run there."""
