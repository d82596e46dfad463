"""`counts`: what a pool of images holds, by the committee and by what people counted on the audits:
the images, what is predicted in each, what people drew, the numbers, the files, the terminal."""
