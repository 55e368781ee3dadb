"""Text from HTML: web pages and articles of Wikipedia, over the tree of the page, so that no word vanishes inside a sentence that is kept."""
