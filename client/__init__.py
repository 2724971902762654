"""One site: its images, local training, the Flower ClientApp, the link to the server, and the command."""
