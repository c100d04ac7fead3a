"""What the data screen shows and where its keys lead, without Textual's screens: rows as tokens, words, the walk."""
