"""The data doctor: what may be wrong with the images and labels of a data set, found before anything is trained.

inspected_data             the images, labels and signatures that every check gets: InspectedData
copies                     groups of images that show one picture: find_copies
"""
