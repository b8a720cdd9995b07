"""The faces of the aligner in LangChain and LangGraph."""
