"""What to do about memory: settings that fit a card, and priced ways out for a run that does not."""
