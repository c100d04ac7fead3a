"""The part of an exported script that loads the model and trains it: only what one run needs of it."""

from __future__ import annotations

TOKENIZER = '''\
def load_tokenizer():
    """The model's tokenizer, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, revision=REVISION{trusted})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
'''

MODEL = '''\
def load_model():
    """The frozen base model, on the device."""
    model = {auto_class}.from_pretrained(
        MODEL,
        revision=REVISION,
        dtype={dtype},
        quantization_config=QUANTIZATION,
        device_map={{"": DEVICE}},
        attn_implementation={attention},
        use_safetensors=True,{trusted}
    )
{repacking}    return model
'''
NO_REPACKING = """\
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On a CPU with AVX512-BF16 bitsandbytes 0.50 repacks 4-bit weights in the first evaluation, and training
            # after it has no gradient through them.
            module.support_avx512bf16_for_cpu = False
"""

SAMPLER = '''\
class LengthGroups(LengthGroupedSampler):
    """transformers' sampler, with an order that depends on the seed and the epoch alone."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed({seed} + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
'''

TRAINER_HEAD = """\
class RunTrainer(SFTTrainer):
"""
GROUPED = """\
    def _get_train_sampler(self, train_dataset=None):
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return LengthGroups(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=lengths)
"""
EVALUATE = """\
    def evaluate(self, *args, **kwargs):
        # An evaluation draws a random number: training must not depend on whether there was one.
        with torch.random.fork_rng():
            return super().evaluate(*args, **kwargs)
"""
BEST = """\
    def _determine_best_metric(self, *args, **kwargs):
        # The best step so far is saved at once, whatever save_strategy says: else it could not be had at the end.
        is_best = super()._determine_best_metric(*args, **kwargs)
        self.control.should_save = self.control.should_save or is_best
        return is_best

    def _load_best_model(self):
        # transformers would bring the adapter back in float32.
        if (best := self.state.best_model_checkpoint) is not None:
            set_peft_model_state_dict(self.model, load_peft_weights(best, device="cpu"))
"""
IN_FP32 = """\
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # TRL casts the adapters to bfloat16, which float16's loss scaler cannot unscale.
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
"""

PRINTER = '''\
class PrintLogs(TrainerCallback):
    """A line of JSON for each step that is logged, and for each evaluation."""

    def on_log(self, args, state, control, logs, **kwargs):
        print(json.dumps({"step": state.global_step, **logs}), flush=True)
'''

MAIN = """\
def main():
    tokenizer = load_tokenizer()
    train, held_out = load_data(tokenizer)
{saved_template}    trainer = {trainer}(
        model=load_model(),
        args=SFTConfig(output_dir=f"{{OUTPUT}}/checkpoints", **TRAINING),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=LORA,
        callbacks=[{callbacks}],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
{evaluate}    trainer.model.save_pretrained(f"{{OUTPUT}}/adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(f"{{OUTPUT}}/adapter")


if __name__ == "__main__":
    main()
"""
EVALUATE_AT_END = """\
    if held_out is not None:
        trainer.evaluate()
"""
