"""What is said and chosen when memory has run out."""
