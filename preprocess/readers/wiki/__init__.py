"""What wikitext prints: templates, parser functions, formulas and numbers, and the sentences whose words are not known."""
