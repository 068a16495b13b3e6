"""The one exception that a user is meant to read."""


class RecipeError(Exception):
    """Bad input, configuration or environment.

    The message names the file or key, the value found, the value expected, and the remedy. The command line prints
    it without a traceback and exits with 1; anything else that is raised is a bug and keeps its traceback.
    """
