r"""Measures networks on benchmarks, beside bicubic and the published figures.

python eval.py --weights=runs/fsrcnn --benchmarks=set5,set14
python eval.py --weights='fsrcnn_x{scale}' --scales=2,3,4 --report=out.html
python eval.py --table=bicubic,srcnn,fsrcnn
python eval.py --weights=BasicVSR_Vimeo90K_BIx4.pth --benchmarks=vid4
"""

from absl import app, flags

from sr_jax import hosts
from sr_jax.evaluation import cli

FLAGS = flags.FLAGS

flags.DEFINE_list(
  "weights",
  [],
  "Weights (.safetensors, .pth, .mat, ncnn), workdirs of runs, fsrcnn_x3 and "
  "others of the package, or bicubic, bilinear, nearest. {scale} is filled in.",
)
flags.DEFINE_list(
  "benchmarks", [], "Sets (set5, vid4, reds4, ...) or folders; default set5."
)
flags.DEFINE_list("scales", [], "Enlargements; default the weights' own.")
flags.DEFINE_list("table", [], "Reproduce published tables: srcnn, all, ...")
flags.DEFINE_string("data_dir", None, "Folder of the sets; else SR_JAX_DATA.")
flags.DEFINE_enum(
  "ssim", None, ["per_channel", "window_3d"], "Else per_channel or --table's."
)
flags.DEFINE_string("model", None, "Network of a .pth: NAME:key=value,...")
flags.DEFINE_string(
  "degradation", None, "Of clips: BI, BD, DUF; else the set's."
)
flags.DEFINE_list("metrics", ["psnr", "ssim"], "Of psnr, ssim and niqe.")
flags.DEFINE_string(
  "niqe_prior", None, "File; else weights/niqe_pris_params.npz of data_dir."
)
flags.DEFINE_bool("details", False, "Print what every image scored.")
flags.DEFINE_string("json", None, "Write the results as JSON.")
flags.DEFINE_string("report", None, "Write a page with pictures (HTML).")
flags.DEFINE_integer("space", 1, "Devices that share out an image's rows.")
hosts.define_flags()


def main(_: list[str]) -> int:
  """Hands the flags over."""
  names = "weights benchmarks scales table data_dir metrics niqe_prior model"
  names += " degradation details space"
  return cli.main(
    ssim_flavour=FLAGS.ssim,
    json_path=FLAGS.json,
    report_path=FLAGS.report,
    **{name: getattr(FLAGS, name) for name in (*names.split(), *hosts.FLAGS)},
  )


if __name__ == "__main__":
  app.run(main, flags_parser=cli.parse_flags)
