"""From images to findings: a detector run over many images, and the verdict on each."""
