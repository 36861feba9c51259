"Tiny models of the families of causal language models in `transformers`: random weights, much dropout."
import inspect

from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ares.core.io import set_seed
from ares.students.decoder import as_student
from ares.students.loading import _check_decoder
from ares.students.base import train_tokenizer

SIZES = {
    400: "vocab_size vocab_size_per_layer_input",
    256: "max_position_embeddings n_positions n_ctx max_seq_len",
    64: "intermediate_size ffn_dim decoder_ffn_dim d_ff n_inner hidden_dim ffn_hidden_size mamba_d_ssm"
        " intermediate_size_mlp",
    32: "hidden_size d_model n_embd dim word_embed_proj_dim attention_hidden_size lru_width embedding_size",
    16: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size mamba_d_head"
        " mamba_head_dim"
        " q_lora_rank kv_lora_rank attention_window_size sliding_window window_size",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim"
        " mamba_d_state"
       " mamba_chunk_size state_size ssm_state_size chunk_size hidden_size_per_layer_input laurel_rank",
    4: "num_attention_heads n_head n_heads decoder_attention_heads num_heads num_experts num_local_experts"
        " n_routed_experts"
       " moe_num_experts linear_num_value_heads mamba_n_heads mamba_num_heads mamba_d_conv mamba_dt_rank"
        " rotary_dim",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_key_value_heads num_kv_heads"
        " num_experts_per_tok"
       " linear_num_key_heads mamba_expand",
    1: "n_group topk_group first_k_dense_replace mamba_n_groups n_groups",
    0.3: "attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop hidden_dropout_prob"
         " attention_probs_dropout_prob"
         " activation_dropout dropout",
    0.2: "initializer_range",
}
LINEAR = dict(layer_types=["linear_attention", "full_attention"])
OWN = dict(
    qwen3_next=LINEAR,
    qwen3_5_text=LINEAR,
    qwen3_5_moe_text=LINEAR,
    olmo_hybrid=LINEAR,
    minimax=LINEAR,
    jamba=dict(
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        use_mamba_kernels=False,
    ),
    bamba=dict(attn_layer_indices=[1]),
    granitemoehybrid=dict(layer_types=["mamba", "attention"]),
    lfm2=dict(layer_types=["conv", "full_attention"]),
    lfm2_moe=dict(layer_types=["conv", "full_attention"], num_dense_layers=1),
    gemma3n_text=dict(
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=None,
    ),
    mamba2=dict(num_heads=4, head_dim=16, expand=2),
    nemotron_h=dict(layers_block_type=["mamba", "attention"]),
    gpt_neo=dict(attention_types=[[["global", "local"], 1]]),
    openai_gpt=dict(n_positions=256),
)
HYBRID = "qwen3_5_text qwen3_next lfm2 granitemoehybrid jamba falcon_h1 bamba olmo_hybrid nemotron_h".split()
DROPPING = "opt xglm biogpt falcon".split()  # their layers apply dropout by their own mode
COMMON = ("llama gpt2 gpt_neo gpt_neox gptj bloom phi3 gemma2 gemma3_text qwen2 qwen3 mixtral smollm3 olmo2 "
          "apertus glm4_moe").split()
WITHOUT_CACHE = "mamba2 rwkv minimax openai-gpt".split()
ALL = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(kind, **more):
    "The configuration of a family at sizes that take no time."
    made = CONFIG_MAPPING[kind]
    known = {
        *inspect.signature(made.__init__).parameters, *getattr(made, "__dataclass_fields__", ()),
        *made.attribute_map,
    }
    sizes = {name: size for size, names in SIZES.items() for name in names.split() if name in known}
    for alias, name in made.attribute_map.items():
        if name in sizes: sizes.pop(alias, None)
    if "is_decoder" in known: sizes["is_decoder"] = True
    return made(
        **sizes
        | OWN.get(kind.replace("-", "_"), {})
        | dict(bos_token_id=None, eos_token_id=1, pad_token_id=0)
        | more
    )


def tiny_student(kind, **more):
    "An untrained student of a family that has passed the test of decoders, in evaluation mode."
    set_seed(0)
    tokenizer = train_tokenizer(
        ["The red ball is hot. Why? The blue one is cold.", "user assistant"] * 5, 400
    )
    return _check_decoder(
        as_student(AutoModelForCausalLM.from_config(tiny_config(kind, **more)).eval(), tokenizer), kind
    )
