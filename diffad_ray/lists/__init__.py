"""Lists that people and their tools make: manifests of images and tables of labels, as CSV, TSV or Parquet."""
