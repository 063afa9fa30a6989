"""Pictures that several rooms draw: contact sheets of images, and charts."""
