"""The ground floor: errors, files, figures, text tables, version. It imports nothing of the zoo."""
