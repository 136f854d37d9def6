"""The builder: imports artifacts, makes variants, measures accuracy and profiles."""
