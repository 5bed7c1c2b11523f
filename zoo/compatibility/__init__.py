"""Will it run: every model tried with what users take models to."""
