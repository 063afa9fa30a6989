"""A study or a bundle as one self-contained HTML page.

palette, drawing       the colours of figures and page, light and dark; a matplotlib figure as inline SVG
figures_*              pure: numbers in, SVG text out
images                 pixels to inline PNG
study_facts,           what is known of a study, of a model, and what can be shown once the images are at hand
model_facts, pictures
sections_*             facts to the values that one template each lays out
page, build            the whole page; the two doors: report_study, report_bundle
"""
