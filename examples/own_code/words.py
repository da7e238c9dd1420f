"""What the words that the model knows are worth."""

WORDS = {"hello": 1.0, "thanks": 2.0, "please": 1.5, "never": -1.0}
