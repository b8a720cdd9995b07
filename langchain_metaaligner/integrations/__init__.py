"""The aligner in LangChain and LangGraph: runnable, middleware and chat model."""
