"""User lists: manifests of images and tables of labels, as CSV, TSV or Parquet."""
