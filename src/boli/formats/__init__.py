"""What a file says: GGUF, safetensors, and what the bits of each number format mean.

numbers       every number format in one table; the exact form `scale * quant + minimum` of the block formats
legacy, kquants, codebook
              one short function for each block format, which takes its blocks apart
tensor_file   what both file formats share: a read-only mapping, checked before it is read
gguf, gguf_values, safetensors
              bounded readers: every count, length and offset is checked against the bytes that are there
shards        which safetensors files of a folder belong together
checkpoint    ties the tensors of a file to the weights of a blueprint

Files come from strangers. A wrong one ends in an error from `boli.errors` that names the file, the
place and the reason; never in a crash, a hang, or memory out of proportion to the file.
"""
