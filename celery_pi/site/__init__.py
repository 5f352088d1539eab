"""The site as it is: a look at all of the owner's that a deploy could harm, before anything is
touched. `look` is the way in; each of the modules tells of one thing, in sentences."""
