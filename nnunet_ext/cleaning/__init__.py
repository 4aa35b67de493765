"""A CT without couch and fixation mask, and an MR without bias field."""
