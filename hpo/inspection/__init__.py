"""The data doctor: what may be wrong with the images and labels of a data set, found before anything is trained.

inspected_data             the images, labels and signatures that every check gets: InspectedData
copies                     groups of images that show one picture: find_copies
odd_images                 unreadable, blank and odd images, from the signatures alone: find_odd_images
leaks                      copies in two of the given parts, and what they are worth: find_leaks
imbalance                  unequal classes, and what each remedy would do: measure_imbalance
inspect_data               all checks in order: inspect_images -> DataInspection; `hpo.inspect`
embedding_map              a sample of the images as points in the plane: map_embeddings
"""
