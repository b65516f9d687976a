"""The service: predictions over HTTP, and the page that uses them."""
