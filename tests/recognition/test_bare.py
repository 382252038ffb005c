"""A trained classifier answers where only the package itself is installed, without its extras."""

from __future__ import annotations

from bare import bare


def test_predict_needs_no_extra(packaged, pictures):
    process = bare(
        f"""
        import sys
        sys.argv = ["openset", "predict", {str(packaged)!r}, {str(pictures)!r}, "--csv"]
        from openset_distill.cli import main
        main()
        """
    )
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) > 1
    assert process.stdout.startswith("file,verdict,predicted")
