"""Reports: a study or a bundle as one self-contained HTML page."""
