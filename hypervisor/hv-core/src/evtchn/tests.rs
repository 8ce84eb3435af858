//! Properties of both ABIs.
