"""Parameter counts that others published, by boli's names, and where they come from.

Hub: the total that a model's page or the index of its files shows. Papers and tables are named.
"""

# Equal to the last digit.
EXACT = {
    # Hub
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "tinyllama-1.1b": 1_100_048_384,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "deepseek-v3": 671_026_419_200,
    "deepseek-r1": 671_026_419_200,
    "chatglm-6b": 6_173_286_400,
    "chatglm2-6b": 6_243_584_000,
    "chatglm3-6b": 6_243_584_000,
    "bert-base-uncased": 109_482_240,
    "bert-base-cased": 108_310_272,
    "bert-large-uncased": 335_141_888,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    # The sizes of Brown et al. 2020, computed as for GPT-2; the largest is in many tests.
    "gpt-3-125m": 125_226_240,
    "gpt-3-350m": 355_871_744,
    "gpt-3-760m": 760_300_032,
    "gpt-3-1.3b": 1_315_723_264,
    "gpt-3-2.7b": 2_651_553_280,
    "gpt-3-6.7b": 6_658_404_352,
    "gpt-3-175b": 174_604_259_328,
    # The table of Pythia's repository.
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    # BLOOM's model cards.
    "bloom-560m": 559_214_592,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
}

# Billions as a paper or card says them, and how near they are.
NEAR = {
    "transformer-base": (0.065, 0.035),  # Vaswani et al. 2017; no vocabulary gives both numbers
    "transformer-big": (0.213, 0.035),
    "gpt-3-13b": (12.952_938_78, 0.01),  # of the paper's width 5140, which 40 heads of 128 do not fill
    "gpt-oss-20b": (20.91, 0.0005),  # OpenAI's card
    "gpt-oss-120b": (116.83, 0.0005),
    "deepseek-v2": (236, 0.005),
    "deepseek-v2-lite": (15.7, 0.005),
    "kimi-k2": (1026, 0.005),
    "mixtral-8x22b": (140.6, 0.001),
    "qwen3-coder-480b-a35b": (480, 0.005),
    "qwen1.5-moe-a2.7b": (14.3, 0.005),
    "llama-4-maverick": (400, 0.005),
    "falcon-180b": (180, 0.01),
    "command-r-plus": (104, 0.005),
    "glm-4-9b": (9.4, 0.005),
}

# (without, with) the input embedding.
ACTIVE = {
    "mixtral-8x7b": (12_748_853_248, 12_879_925_248),
    "qwen3-30b-a3b": (3_353_032_704 - 151936 * 2048, 3_353_032_704),
    "qwen3-235b-a22b": (22_190_763_520 - 151936 * 4096, 22_190_763_520),
    "deepseek-v3": (36_625_618_432, 37_552_297_472),
}

# With the module for multi-token prediction, as the hub's page shows them.
WITH_PREDICTION = {
    "deepseek-v3": 684_489_845_504,
    "glm-4.5": 358_337_791_296,
    "glm-4.5-air": 110_468_824_832,
}

# Bytes of all tensors, as the index of the published files says.
STORED_BYTES = {
    "llama-3.1-8b": 16_060_522_496,
    "gpt-oss-20b": 13_761_264_768,
    "gpt-oss-120b": 65_248_815_744,
}
