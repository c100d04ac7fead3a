"""What the screen that tries a model out knows: conversations, columns, settings, words. No widget is needed for it."""
