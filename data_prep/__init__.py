"""Raw ratings in, the prepared sets that `ncf_ppt` reads out."""
