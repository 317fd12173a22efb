"""Families that boli weighs and does not run: their weights as tables.

lines           a weight as one line (role, name, name in GGUF, shape in symbols), and a layer as a few
sizes           the numbers that all configurations have, read leniently
dense           Llama's relatives: one table row a family says what differs
mixtures        the same attention with a mixture of experts behind it
deepseek        latent attention, shared experts, modules that predict further tokens
hybrid          layers with linear attention among others
classics        GPT-NeoX, GPT-J, OPT, Falcon, BLOOM, MPT, Phi-1 and Phi-2
chatglm, bert, t5, transformer
                families with names of their own
reading         from a config.json to one of these
"""
