"""Drawing that several rooms share: contact sheets of images, and charts."""
