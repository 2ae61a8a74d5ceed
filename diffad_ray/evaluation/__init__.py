"""How good a detector is: exact metrics, labelled datasets, evaluations."""
