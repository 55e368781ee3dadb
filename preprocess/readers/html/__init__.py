"""Text from HTML, of web pages and of articles of Wikipedia: no word vanishes inside a sentence that is kept."""
